"""The stages of dvc.yaml, one module each; `python -m stages.cleaning NAME` runs one without Prefect."""
