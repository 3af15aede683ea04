"""The dashboards of stream_ft, one module each."""
