output "roles" {
  description = "role by duty, for the service accounts in infra/kubernetes/accounts.yaml"
  value       = { for duty, role in aws_iam_role.stage : duty => role.arn }
}

output "lake" {
  description = "the config's `lake`"
  value       = "s3://${aws_s3_bucket.lake.id}/${var.prefix}"
}
