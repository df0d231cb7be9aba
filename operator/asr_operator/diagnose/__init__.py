"""Diagnosis of AsrDeployments: what a cluster shows, judged by pure rules. Reads; writes nothing."""
