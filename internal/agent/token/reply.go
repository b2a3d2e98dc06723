// How a token reply of the metadata service is read.

package token

import (
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// parseReply reads a token reply, keeping all of it.
func parseReply(body []byte, now time.Time) (*Token, error) {
	t := &Token{Obtained: now}
	if err := json.Unmarshal(body, &t.Fields); err != nil {
		return nil, errors.New("it is not a JSON object") // the body may hold a token: no detail
	}
	var access string
	if json.Unmarshal(t.Fields["access_token"], &access) != nil || access == "" {
		return nil, errors.New("it has no access_token")
	}
	c := readClaims(access)
	t.ObjectID = c.ObjectID
	t.ExpiresOn = firstTime(epoch(t.number("expires_on")), t.after("expires_in"), epoch(c.ExpiresOn))
	t.NotBefore = firstTime(epoch(t.number("not_before")), epoch(c.NotBefore), now)
	t.ExtendedOn = t.after("ext_expires_in")
	if t.ExpiresOn.IsZero() {
		return nil, errors.New("it does not say when the token expires")
	}
	if !t.valid(now) {
		return nil, errors.New("its token has expired")
	}
	return t, nil
}

// number is a field's number, with or without quotes.
func (t *Token) number(field string) json.Number {
	return json.Number(strings.Trim(string(t.Fields[field]), `" `))
}

// after is Obtained and a field's seconds, zero time without the field.
func (t *Token) after(field string) time.Time {
	seconds, err := t.number(field).Float64()
	if err != nil || seconds <= 0 || seconds > 1<<31 {
		return time.Time{}
	}
	return t.Obtained.Add(time.Duration(seconds * float64(time.Second)))
}

func firstTime(times ...time.Time) time.Time {
	for _, t := range times {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}
