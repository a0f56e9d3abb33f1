"""Object storage and Delta tables: the only room that imports deltalake, boto3 and pyarrow.fs."""
