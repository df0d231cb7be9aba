"""The contract between builder, operator, pods and client.

Recipe, artifact manifest, errors and exit codes; on which platform a plan runs; how a server is started; its metrics.
"""
