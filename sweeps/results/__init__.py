"""Results of a sweep at its end: leaderboard, comparison and printed summary."""
