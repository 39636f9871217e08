"""The kinds of task, a folder each; see `trainwright/core/tasks.py` for what is in one."""
