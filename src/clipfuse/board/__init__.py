"""The leaderboard: results of many methods on many sets, as one page."""
