"""What every stage imports, and nothing else: a change in here makes every stage of every pipeline run again."""
