{{/* Labels that every object of the release carries; call with (list $ "component"). */}}
{{- define "mpslice.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: mpslice
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}
