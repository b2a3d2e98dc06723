// Reading a token reply of the metadata service or of Entra ID.

package source

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/agent/token"
)

// ParseReply reads a token reply and keeps all of its fields. Its errors quote nothing of the body,
// which may hold a token.
func ParseReply(body []byte, now time.Time) (*token.Token, error) {
	fields := fields{}
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, errors.New("it is not a JSON object")
	}
	var access string
	if json.Unmarshal(fields["access_token"], &access) != nil || access == "" {
		return nil, errors.New("it has no access_token")
	}
	c := ReadClaims(access)
	t := &token.Token{
		Fields: fields, Obtained: now, ObjectID: c.ObjectID,
		ExpiresOn:  firstTime(epoch(fields.number("expires_on")), fields.after(now, "expires_in"), epoch(c.ExpiresOn)),
		NotBefore:  firstTime(epoch(fields.number("not_before")), epoch(c.NotBefore), now),
		ExtendedOn: fields.after(now, "ext_expires_in"),
	}
	if t.ExpiresOn.IsZero() {
		return nil, errors.New("it does not say when the token expires")
	}
	if !now.Before(t.ExpiresOn) {
		return nil, errors.New("its token has expired")
	}
	return t, nil
}

// fields are those of a reply.
type fields map[string]json.RawMessage

// number returns a number that the service writes with or without quotes.
func (f fields) number(name string) json.Number {
	return json.Number(strings.Trim(string(f[name]), `" `))
}

// after returns the time that a field says in seconds from now. It is zero without the field.
func (f fields) after(now time.Time, name string) time.Time {
	seconds, err := f.number(name).Float64()
	if err != nil || seconds <= 0 || seconds > 1<<31 {
		return time.Time{}
	}
	return now.Add(time.Duration(seconds * float64(time.Second)))
}

func firstTime(times ...time.Time) time.Time {
	for _, t := range times {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}
