"""Object storage and Delta tables: the only package that imports deltalake, boto3 and pyarrow.fs."""
