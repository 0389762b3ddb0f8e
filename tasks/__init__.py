"""What crosses the queue: the Celery application, the doorbell and thin tasks."""
