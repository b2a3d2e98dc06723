{{- /* What every template does first, so that it need not matter which one Helm takes first. */ -}}
{{- define "podid.prepare" -}}
{{- $known := .Files.Get "files/known.yaml" | fromYaml -}}
{{- include "podid.fill" (dict "values" .Values "defaults" $known.defaults "sections" $known.sections "prefix" "") -}}
{{- include "podid.clearAdminsecret" . -}}
{{- include "podid.validate" . -}}
{{- end -}}

{{- /* Sets what is null or missing, as in a values file with an empty section, and with --reuse-values. Helm removes the
       default of what is null. Lists, and maps that are no section, stay as they are: there null means none. */ -}}
{{- define "podid.fill" -}}
{{- range $key, $default := .defaults -}}
{{- $name := printf "%s%s" $.prefix $key -}}
{{- $section := has $name $.sections -}}
{{- $value := index $.values $key -}}
{{- if and (kindIs "invalid" $value) (or $section (not (or (kindIs "map" $default) (kindIs "slice" $default)))) -}}
{{- $_ := set $.values $key $default -}}
{{- else if $section -}}
{{- include "podid.fill" (dict "values" $value "defaults" $default "sections" $.sections "prefix" (printf "%s." $name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* A values file may list the fields of adminsecret and fill none. */ -}}
{{- define "podid.clearAdminsecret" -}}
{{- $given := list -}}
{{- range $key, $value := .Values.adminsecret -}}
{{- if not (has (include "podid.text" $value | lower) (list "" "false")) -}}
{{- $given = append $given $key -}}
{{- end -}}
{{- end -}}
{{- if not $given -}}
{{- $_ := set .Values "adminsecret" dict -}}
{{- end -}}
{{- end -}}
