"""The steps of a build, in the order of `pipeline.STAGES`; each is a function from its inputs to its outputs."""
