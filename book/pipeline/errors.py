"""What the pipeline says when it cannot go on."""


class PipelineError(Exception):
    """A failure whose message is meant for the reader: what was given, what was expected, what to do. No traceback."""
