{{- /* Mistakes that the schema cannot word well, caught before anything reaches the cluster. */ -}}
{{- define "podid.validate" -}}
{{- if contains "mcr.microsoft.com/oss/azure/aad-pod-identity" (toString .Values.image.repository) -}}
{{- fail "image.repository names the images of aad-pod-identity, which this chart cannot run. Take image.repository, mic.tag and nmi.tag out of your values; with `helm upgrade`, pass your own values with -f instead of --reuse-values" -}}
{{- end -}}
{{- if and (include "podid.true" (.Values.federation).enabled) (eq (include "podid.federation.namespace" .) .Release.Namespace) -}}
{{- fail "federation.namespace is the namespace of the release: brokers need one of their own, since no pod may run there" -}}
{{- end -}}
{{- if and (include "podid.true" (.Values.federation).limitToNodes) (not (include "podid.federation.byNode" .)) -}}
{{- fail "federation.limitToNodes needs operationMode standard, federation.admissionPolicy, rbac.enabled and Kubernetes 1.30" -}}
{{- end -}}
{{- if and (.Values.mic).agentTaintAfter (ne (toString .Values.mic.agentTaintAfter) "0s") (ne (toString .Values.mic.agentTaintAfter) "0") (not (include "podid.nmi.startupTaint" .)) -}}
{{- fail "mic.agentTaintAfter needs nmi.startupTaint and Kubernetes 1.30: nothing would remove the taint" -}}
{{- end -}}
{{- with .Values.adminsecret -}}
{{- if not (or .existingSecret (include "podid.true" .useMSI) (eq (toString .clientID | lower) "msi")) -}}
{{- $missing := list -}}
{{- $given := . -}}
{{- range list "tenantID" "clientID" "clientSecret" -}}
{{- if eq (include "podid.text" (get $given .)) "" -}}
{{- $missing = append $missing (printf "adminsecret.%s" .) -}}
{{- end -}}
{{- end -}}
{{- if $missing -}}
{{- fail (printf "%s missing: a service principal needs tenantID, clientID and clientSecret. Set adminsecret.useMSI to true for a managed identity, adminsecret.existingSecret for a Secret of yours, or leave adminsecret empty for the node's cloud config (mic.cloudConfig)" (join " and " $missing)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
