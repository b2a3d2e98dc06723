// The format of token replies.

package imds

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Reply is a token reply, serialized once and sent many times. Only the two durations in it change
// from one answer to the next. It is immutable.
type Reply struct {
	// The body is head, seconds left, middle, extended seconds left, tail.
	head, middle, tail []byte
	expiresOn, extOn   time.Time
}

// always returns the fields that every reply has, as strings. Clients fail without expires_on (JS,
// Rust, .NET, az), expires_in (JS 1.x, MSAL Python), resource (Python, Rust), token_type
// (msrestazure, nodeauth) or not_before (azcopy), and some fail if one of them is not a string.
func always() []string {
	return []string{"client_id", "expires_on", "not_before", "refresh_token", "resource", "token_type"}
}

// NewReply makes the reply from the fields of a source's reply. It keeps every field, sets resource
// to the requested one, and adds what is missing. expiresOn and notBefore are the token's times.
// Until extendedOn it may be used in an outage of the service. An extendedOn before expiresOn
// counts as expiresOn.
func NewReply(
	fields map[string]json.RawMessage, resource, clientID string, notBefore, expiresOn, extendedOn time.Time,
) (*Reply, error) {
	text := make(map[string]string, len(fields)+len(always()))
	for name, raw := range fields {
		value, err := asString(raw)
		if err != nil {
			return nil, fmt.Errorf("field %s of the token reply: %w", name, err)
		}
		text[name] = value
	}
	access := text["access_token"]
	if access == "" || access == `""` {
		return nil, errors.New("the token reply has no access_token")
	}
	for _, name := range []string{"access_token", "expires_in", "ext_expires_in"} {
		delete(text, name)
	}
	text["resource"] = quote(resource)
	text["expires_on"] = quote(strconv.FormatInt(expiresOn.Unix(), 10))
	text["not_before"] = quote(strconv.FormatInt(notBefore.Unix(), 10))
	setDefault(text, "client_id", clientID)
	setDefault(text, "token_type", "Bearer")
	setDefault(text, "refresh_token", "")
	r := &Reply{expiresOn: expiresOn, extOn: extendedOn}
	if r.extOn.Before(expiresOn) {
		r.extOn = expiresOn
	}
	r.head = []byte(`{"access_token":` + access + `,"client_id":` + text["client_id"] + `,"expires_in":"`)
	r.middle = []byte(`","expires_on":` + text["expires_on"] + `,"ext_expires_in":"`)
	r.tail = tail(text)
	return r, nil
}

// tail returns the rest of the reply: the known fields in the service's order, then all others.
func tail(text map[string]string) []byte {
	var b bytes.Buffer
	b.WriteByte('"')
	write := func(name string) {
		if name == "client_id" || name == "expires_on" {
			return // already in the head
		}
		b.WriteString("," + quote(name) + ":" + text[name])
	}
	for _, name := range always() {
		write(name)
	}
	var others []string
	for name := range text {
		if !slices.Contains(always(), name) {
			others = append(others, name)
		}
	}
	slices.Sort(others)
	for _, name := range others {
		write(name)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// Append implements token.Body.
func (r *Reply) Append(dst []byte, now time.Time) []byte {
	dst = append(dst, r.head...)
	dst = strconv.AppendInt(dst, secondsLeft(now, r.expiresOn), 10)
	dst = append(dst, r.middle...)
	dst = strconv.AppendInt(dst, secondsLeft(now, r.extOn), 10)
	return append(dst, r.tail...)
}

func secondsLeft(now, then time.Time) int64 {
	return max(then.Unix()-now.Unix(), 0)
}

func setDefault(text map[string]string, name, value string) {
	if have := text[name]; have == "" || have == `""` {
		text[name] = quote(value)
	}
}

// asString returns a field's value as JSON text. Numbers and booleans become strings, as in the
// service's own replies. Objects and lists, which no known field has, stay unchanged.
func asString(raw json.RawMessage) (string, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return "", fmt.Errorf("not JSON: %w", err)
	}
	value := compact.String()
	switch {
	case value == "null":
		return `""`, nil
	case strings.IndexByte(`"{[`, value[0]) >= 0:
		return value, nil
	default:
		return quote(value), nil
	}
}

// quote returns s as a JSON string, without HTML escapes.
func quote(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes
	return strings.TrimSuffix(b.String(), "\n")
}
