# It writes nothing but to /tmp; DATABASE_URL says where its data is.
