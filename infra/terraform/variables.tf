variable "bucket" {
  description = "bucket of the lake"
  type        = string
}

variable "prefix" {
  description = "folder of the lake in the bucket, without slashes at its ends"
  type        = string
  default     = "facelake"
}

variable "corpus_bucket" {
  description = "bucket of the corpus; only read"
  type        = string
}

variable "old_versions_days" {
  description = "days for which replaced and deleted objects are kept"
  type        = number
  default     = 14
}

variable "oidc_provider_arn" {
  description = "the cluster's identity provider in IAM"
  type        = string
}

variable "oidc_issuer" {
  description = "its issuer, without https://"
  type        = string
}

variable "namespace" {
  description = "Kubernetes namespace of the service accounts"
  type        = string
  default     = "facelake"
}
