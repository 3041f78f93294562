"""What is stored: `rest_client.RestClient` lists and manages, `download` and `adapter_upload` move, `saved_path` names.

May import `transport/`.
"""
