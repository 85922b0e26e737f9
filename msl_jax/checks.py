"""What is refused, and in which words."""


class Refused(Exception):
    """Bad input, said in one sentence: which file or setting, what is wrong, what to do.

    The commands print it and exit with a code other than 0, without a traceback.
    """
