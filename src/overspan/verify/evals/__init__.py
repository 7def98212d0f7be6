"""Prompt and answer sets: asked, scored, with an interval, and compared question by question. Statistics are pure."""
