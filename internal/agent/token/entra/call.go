// One call of a token endpoint.

package entra

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/source"
)

// call posts the form and reads the answer.
func (s *Source) call(ctx context.Context, r token.Request, at endpoint, with proof) (*token.Token, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {r.Identity.Spec.ClientID}}
	if at.adfs {
		form.Set("resource", r.Resource)
	} else {
		// Nothing is trimmed: one slash more or less is another audience.
		form.Set("scope", r.Resource+"/.default")
	}
	if err := with.sign(form, at, r.Identity.Spec.ClientID, time.Now()); err != nil {
		return nil, unusable(r.Identity, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.url, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, unusable(r.Identity, errors.New("its tenantID or adEndpoint makes no URL"))
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", s.cfg.UserAgent)
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, trouble(at, "does not answer", source.StripURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return nil, trouble(at, "did not complete its response", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refused(resp, body, r, at, with)
	}
	t, err := source.ParseReply(body, time.Now())
	if err != nil {
		return nil, trouble(at, "returned an invalid response", err)
	}
	keepKnown(t)
	if err := source.SubjectOf(t).Mismatch(r.Identity.Spec); err != nil {
		return nil, source.OtherIdentity(r.Identity, "Entra ID ("+at.host+")", err)
	}
	return t, nil
}

// keepKnown removes the fields that the metadata service does not return either, such as an ID
// token or a refresh token.
func keepKnown(t *token.Token) {
	known := []string{
		"access_token", "token_type", "expires_in", "expires_on", "ext_expires_in", "not_before", "resource",
	}
	for name := range t.Fields {
		if !slices.Contains(known, name) {
			delete(t.Fields, name)
		}
	}
}
