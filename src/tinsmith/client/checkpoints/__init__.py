"""What is stored: `rest_client.RestClient` lists and manages; `download` and `adapter_upload` move adapters, with
`file_transfer` piece by piece; `saved_path` names a checkpoint before it is there.

May import `transport/`.
"""
