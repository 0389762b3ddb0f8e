# One image for every process; docker-compose.yml names the command of each.
FROM python:3.13-slim AS build
WORKDIR /app
COPY requirements requirements
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements/run.txt
COPY . .
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation -e .

FROM python:3.13-slim
RUN useradd --create-home --uid 10001 daybook
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
USER daybook
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 DAYBOOK_STATE_DIR=/home/daybook/state
CMD ["daybook", "--help"]
