"""The contract between builder, operator, pods and client: recipe, artifact manifest, errors and exit codes."""
