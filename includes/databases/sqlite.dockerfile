ENV DATABASE_URL=sqlite:////data/service.db
RUN install --directory --owner=10001 --group=10001 /data
VOLUME /data
