"""The data folder: where things lie in it, who holds it, how full its disk is, and what is really on that disk.

`data_folder` names and makes folders, `folder_lock` keeps a second service out, `disk_space` counts, `durable` syncs.
"""
