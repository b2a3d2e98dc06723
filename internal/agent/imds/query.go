// Queries that are passed on to the real service.

package imds

import (
	"strings"

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/reason"
)

// maxPassedOn bounds a query that is passed on. Real ones have some 60 bytes.
const maxPassedOn = 1 << 10

// PassOnQuery returns the query to send to the real service for the raw query of a PassThrough
// path. Like Classify it refuses instead of normalizing: names and values may have letters, digits,
// ".", "-" and "_" only, like the service's own (api-version, format, nonce). So the service cannot
// read any part of it as a path, or an escape differently. A parameter may occur only once.
func PassOnQuery(rawQuery string) (string, *reason.Refusal) {
	if len(rawQuery) > maxPassedOn {
		return "", reason.BadQuery.Refuse("the query is too long")
	}
	var out strings.Builder
	var names []string
	for pair := range strings.SplitSeq(rawQuery, "&") {
		if pair == "" {
			continue
		}
		name, value, refusal := unescapePair(pair)
		if refusal != nil {
			return "", refusal
		}
		if name == "" || !queryPlain(name) || !queryPlain(value) {
			return "", reason.BadQuery.Refuse("names and values of parameters may have " +
				"letters, digits, dots, dashes and underscores only")
		}
		for _, earlier := range names {
			if ascii.EqualFold(earlier, name) {
				return "", reason.BadQuery.Refuse("parameter %s is specified more than once", name)
			}
		}
		names = append(names, name)
		if out.Len() > 0 {
			out.WriteByte('&')
		}
		out.WriteString(name + "=" + value)
	}
	return out.String(), nil
}

func queryPlain(s string) bool {
	for i := range len(s) {
		if s[i] != '.' && !plain(s[i:i+1]) {
			return false
		}
	}
	return true
}
