FROM python:3.11-slim

# What pip resolves changes seldom, our code often: two layers.
COPY requirements.txt /app/
RUN pip install --no-cache-dir --requirement /app/requirements.txt

COPY backend /app/backend
COPY model /app/model
WORKDIR /app
RUN useradd --create-home firstlight && mkdir /data && chown firstlight /data
USER firstlight
ENV DATA_DIR=/data HOST=0.0.0.0 PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=passive
VOLUME /data
EXPOSE 9090
CMD ["python", "-m", "backend", "start"]
