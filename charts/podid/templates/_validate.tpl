{{- /* Mistakes that the schema cannot word well, caught before anything reaches the cluster. */ -}}
{{- define "podid.validate" -}}
{{- if contains "mcr.microsoft.com/oss/azure/aad-pod-identity" (toString .Values.image.repository) -}}
{{- fail "image.repository names the images of aad-pod-identity, which this chart cannot run. Take image.repository, mic.tag and nmi.tag out of your values; with `helm upgrade`, pass your own values with -f instead of --reuse-values" -}}
{{- end -}}
{{- with .Values.adminsecret -}}
{{- if not .existingSecret -}}
{{- $required := list "subscriptionID" "resourceGroup" "vmType" "tenantID" -}}
{{- if not (include "podid.true" .useMSI) -}}
{{- $required = concat $required (list "clientID" "clientSecret") -}}
{{- end -}}
{{- $given := . -}}
{{- range $required -}}
{{- if eq (include "podid.text" (get $given .)) "" -}}
{{- fail (printf "adminsecret.%s is missing. adminsecret needs %s; leave adminsecret empty to use the node's cloud config (mic.cloudConfig)" . (join ", " $required)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
