"""The clock: functions timed in turns, a model's layers timed in context, and deadlines."""
