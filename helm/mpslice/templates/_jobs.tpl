{{/*
A Job that a Helm hook runs, with its account, role and network policy, which come and go with it: the
rights that it has are in the cluster only while it runs. Call with (list $ $job), of which $job has
  component      the objects are called mpslice-<component>
  hook           Helm's name of the moment
  priorityClass  of the chart's own, where it still exists then
  args           of kubectl-mpslice
  namespace      where `rules` hold; everywhere when empty
  rules          what the account may do
Applied by `helm template | kubectl apply` the Job is an object like any other. So it does no harm then,
and its name changes with its template, since the template of a Job cannot be changed.
*/}}
{{- define "mpslice.hookJob" -}}
{{- $root := index . 0 }}{{ $job := index . 1 }}{{ $v := $root.Values.jobs }}
{{- $name := printf "mpslice-%s" $job.component }}
{{- $hook := dict "helm.sh/hook" $job.hook "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded,hook-failed" }}
{{- if eq $job.hook "test" }}
{{- /* Argo CD has no such moment. */}}
{{- $_ := set $hook "argocd.argoproj.io/hook" "Skip" }}
{{- end }}
{{- $first := mustMergeOverwrite (dict "helm.sh/hook-weight" "-5") $hook }}
{{- /* What the program says is what `helm` prints. */}}
{{- $last := mustMergeOverwrite (dict "helm.sh/hook-output-log-policy" "hook-succeeded,hook-failed") $hook }}
{{- $template := include "mpslice.hookPod" . -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $name }}-{{ sha256sum $template | trunc 8 }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "mpslice.metadata" (list $root $job.component (dict "annotations" $last)) | nindent 2 }}
spec:
  backoffLimit: 0
  activeDeadlineSeconds: 120
  ttlSecondsAfterFinished: {{ int $v.ttlSecondsAfterFinished }}
  template: {{- $template | nindent 4 }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "mpslice.metadata" (list $root $job.component (dict "annotations" $first)) | nindent 2 }}
{{- if $root.Values.rbac.create }}
{{- $kind := empty $job.namespace | ternary "ClusterRole" "Role" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- with $job.namespace }}
  namespace: {{ . }}
  {{- end }}
  {{- include "mpslice.metadata" (list $root $job.component (dict "annotations" $first)) | nindent 2 }}
rules: {{- $job.rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- with $job.namespace }}
  namespace: {{ . }}
  {{- end }}
  {{- include "mpslice.metadata" (list $root $job.component (dict "annotations" $first)) | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ $name }}
    namespace: {{ $root.Release.Namespace }}
{{- end }}
{{- if $root.Values.networkPolicies.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "mpslice.metadata" (list $root $job.component (dict "annotations" $first)) | nindent 2 }}
spec:
  podSelector:
    matchLabels: {{- include "mpslice.selector" (list $root $job.component) | nindent 6 }}
  policyTypes: [Ingress{{ if $root.Values.networkPolicies.apiServerPorts }}, Egress{{ end }}]
  {{- include "mpslice.egress" $root | nindent 2 }}
{{- end }}
{{- end }}

{{- define "mpslice.hookPod" -}}
{{- $root := index . 0 }}{{ $job := index . 1 }}{{ $v := $root.Values.jobs -}}
metadata: {{- include "mpslice.podMetadata" (list $root $job.component $v) | nindent 2 }}
spec:
  restartPolicy: Never
  {{- include "mpslice.scheduling" (list $root $job.component $v $job.priorityClass) | nindent 2 }}
  securityContext: {{- include "mpslice.restrictedPod" $v | nindent 4 }}
  containers:
    - name: {{ $job.component }}
      {{- include "mpslice.container" (list $root $v) | nindent 6 }}
      command: [kubectl-mpslice]
      args: {{- toYaml $job.args | nindent 8 }}
      {{- with $v.extraEnv }}
      env: {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext: {{- include "mpslice.restrictedContainer" $v | nindent 8 }}
{{- end }}
