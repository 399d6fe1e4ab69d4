"""What `import clipfuse` offers: functions over the rooms, for programs and notebooks."""
