"""A function of the user's over the rows of a source: the processes that apply it, and what each of them does."""
