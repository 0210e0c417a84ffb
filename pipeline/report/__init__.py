"""A run as a person sees it: progress, status and the report page."""
