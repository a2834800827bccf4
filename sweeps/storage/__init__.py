"""Run folders and trial folders on disk: their files, locks and kept weights."""
