{{- define "firstlight.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "firstlight.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "firstlight.labels" -}}
{{ include "firstlight.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Of a dict with `root` and `image`, which wins over .Values.image. */}}
{{- define "firstlight.image" -}}
{{- $usual := .root.Values.image -}}
{{- $repository := required "image.repository is empty: name the image that you built from the Dockerfile and pushed, such as registry.example/firstlight" (.image.repository | default $usual.repository) -}}
{{- /* A tag of its own must not lose against the digest of the other image. */ -}}
{{- $build := empty (or .image.tag .image.digest) | ternary $usual .image -}}
{{- if $build.digest -}}
{{ $repository }}@{{ $build.digest }}
{{- else -}}
{{ $repository }}:{{ $build.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Whether artifacts lie in a volume. */}}
{{- define "firstlight.volume" -}}
{{- if not .Values.settings.ARTIFACTS_URL -}}true{{- end -}}
{{- end -}}

{{/* The folder where that volume is mounted. */}}
{{- define "firstlight.artifacts" -}}/artifacts{{- end -}}

{{- define "firstlight.environment" -}}
envFrom:
  - configMapRef:
      name: {{ include "firstlight.name" . }}
env:
  - {name: HOST, value: "0.0.0.0"}
  - {name: PORT, value: "9090"}
  - {name: DATA_DIR, value: /data}
{{- range $name, $secret := .Values.secrets }}
{{- if $secret }}
  - name: {{ $name }}
    valueFrom:
      secretKeyRef: {name: {{ $secret.name }}, key: {{ $secret.key }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "firstlight.mounts" -}}
volumeMounts:
  - {name: cache, mountPath: /data}
  - {name: temporary, mountPath: /tmp}
{{- if include "firstlight.volume" . }}
  - {name: artifacts, mountPath: {{ include "firstlight.artifacts" . }}}
{{- end }}
{{- if .Values.weights.existingClaim }}
  - {name: weights, mountPath: /weights, readOnly: true}
{{- end }}
{{- end -}}

{{- define "firstlight.volumes" -}}
volumes:
  - name: cache
    emptyDir: {sizeLimit: {{ .Values.cache.sizeLimit }}}
  - name: temporary
    emptyDir: {}
{{- if include "firstlight.volume" . }}
  - name: artifacts
    persistentVolumeClaim:
      claimName: {{ .Values.persistence.existingClaim | default (include "firstlight.name" .) }}
{{- end }}
{{- if .Values.weights.existingClaim }}
  - name: weights
    persistentVolumeClaim: {claimName: {{ .Values.weights.existingClaim }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* Of a container: it writes only to /data, /artifacts and /tmp, and never changes its user. */}}
{{- define "firstlight.confinement" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Brings the tables up to date before a process starts; a failure leaves the pods of before alone. */}}
{{- define "firstlight.migration" -}}
initContainers:
  - name: migrate
    image: {{ include "firstlight.image" . }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command: [python, -m, backend, migrate]
    {{- include "firstlight.environment" .root | nindent 4 }}
    {{- include "firstlight.mounts" .root | nindent 4 }}
    resources:
      requests: {cpu: 100m, memory: 128Mi}
      limits: {memory: 256Mi}
    {{- include "firstlight.confinement" .root | nindent 4 }}
{{- end -}}

{{/* What the pods of web and worker have in common. Of a dict with `root`, `role` and `image`. */}}
{{- define "firstlight.pod" -}}
{{- $place := index .root.Values .role -}}
serviceAccountName: {{ include "firstlight.name" .root }}
automountServiceAccountToken: false
# Else each service of the namespace would add variables to the environment.
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
# The user of the image.
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{ include "firstlight.migration" . }}
{{ include "firstlight.volumes" .root }}
{{- range $name := list "nodeSelector" "tolerations" "affinity" }}
{{- with index $place $name }}
{{ $name }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}
