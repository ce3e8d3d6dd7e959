"""Clients for TensorFlow Serving, over gRPC and REST, blocking and asyncio."""
