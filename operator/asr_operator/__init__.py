"""The Kubernetes operator of AsrDeployment: builds speech recognition models, publishes and serves them with Triton."""
