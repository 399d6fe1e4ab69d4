"""From the run folders of a sweep to an answer: statistics, one table, one report. Reads files only."""
