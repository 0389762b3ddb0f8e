"""One file per outside thing: Postgres, Redis, Kafka, settings."""
