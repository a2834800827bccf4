"""Results that are written at a sweep's end: leaderboard, comparison and printed summary."""
