"""Conformance run: does a server do on its own hardware and image what the project promises?

One module for each group of checks. What a probe has read is judged by pure functions (`judge_*`), so that each
judgement can be tested with what real servers gave and one value altered.
"""
