# The lake's bucket and one role per duty, each with the least permissions that the duty needs. Checked by
# `terraform fmt` and a parser only; this project has not applied it (its test machines cannot fetch a provider).
terraform {
  required_version = ">= 1.6"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

locals {
  lake   = "arn:aws:s3:::${var.bucket}/${var.prefix}"
  bucket = "arn:aws:s3:::${var.bucket}"
  corpus = "arn:aws:s3:::${var.corpus_bucket}"

  # Keys as docs/storage.md lists them. Workers stage files; only the driver commits, and only an erasure removes history.
  stages = {
    driver = [
      { actions = ["s3:ListBucket"], resources = [local.bucket, local.corpus] },
      { actions = ["s3:GetObject"], resources = ["${local.corpus}/*"] },
      { actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], resources = ["${local.lake}/*"] },
    ]
    embed-worker = [
      { actions = ["s3:GetObject"], resources = ["${local.corpus}/*", "${local.lake}/corpus/*"] },
      { actions = ["s3:PutObject"], resources = ["${local.lake}/faces/*", "${local.lake}/rejects/*"] },
    ]
    cluster-worker = [
      { actions = ["s3:GetObject"], resources = ["${local.lake}/faces/*"] },
      { actions = ["s3:GetObject", "s3:PutObject"], resources = ["${local.lake}/_work/*"] },
      { actions = ["s3:PutObject"], resources = ["${local.lake}/groups/*"] },
    ]
    eraser = [
      {
        actions = [
          "s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketVersioning", "s3:ListBucketMultipartUploads"
        ]
        resources = [local.bucket]
      },
      {
        actions = [
          "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:AbortMultipartUpload"
        ]
        resources = ["${local.lake}/*"]
      },
    ]
  }
}

resource "aws_s3_bucket" "lake" {
  bucket = var.bucket
}

resource "aws_s3_bucket_public_access_block" "lake" {
  bucket                  = aws_s3_bucket.lake.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_versioning" "lake" {
  bucket = aws_s3_bucket.lake.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_kms_key" "lake" {
  description             = "facelake: templates of faces at rest"
  enable_key_rotation     = true
  deletion_window_in_days = 30
}

resource "aws_s3_bucket_server_side_encryption_configuration" "lake" {
  bucket = aws_s3_bucket.lake.id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.lake.arn
    }
  }
}

# Old versions allow recovery from mistakes for some days; an erasure deletes the old versions of erased data at once.
resource "aws_s3_bucket_lifecycle_configuration" "lake" {
  bucket = aws_s3_bucket.lake.id
  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {
      prefix = "${var.prefix}/"
    }
    noncurrent_version_expiration {
      noncurrent_days = var.old_versions_days
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}

data "aws_iam_policy_document" "tls_only" {
  statement {
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [local.bucket, "${local.bucket}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "lake" {
  bucket     = aws_s3_bucket.lake.id
  policy     = data.aws_iam_policy_document.tls_only.json
  depends_on = [aws_s3_bucket_public_access_block.lake]
}

data "aws_iam_policy_document" "trust" {
  for_each = local.stages
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }
    condition {
      test     = "StringEquals"
      variable = "${var.oidc_issuer}:sub"
      values   = ["system:serviceaccount:${var.namespace}:facelake-${each.key}"]
    }
    condition {
      test     = "StringEquals"
      variable = "${var.oidc_issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "stage" {
  for_each = local.stages
  dynamic "statement" {
    for_each = each.value
    content {
      actions   = statement.value.actions
      resources = statement.value.resources
    }
  }
  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.lake.arn]
  }
}

resource "aws_iam_role" "stage" {
  for_each           = local.stages
  name               = "facelake-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.trust[each.key].json
}

resource "aws_iam_role_policy" "stage" {
  for_each = local.stages
  name     = "lake"
  role     = aws_iam_role.stage[each.key].id
  policy   = data.aws_iam_policy_document.stage[each.key].json
}
