"""What to think of it: functions over plain values."""
