"""The stages of dvc.yaml, one module each; `python -m stages.cleaning NAME` runs one without Prefect."""

import signal
import sys

# In a stage's own process Ctrl-C while it still imports ends it without a traceback; process.stage() takes over then.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
