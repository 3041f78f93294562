"""The protobuf messages of the wire, in a package of our own.

Field numbers are those of the protocol; the package name differs so that another SDK's descriptors can be imported
beside these. `tinsmith_pb2.py` is made by `make proto`.
"""
