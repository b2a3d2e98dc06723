// A request for a token as a pod sends it, for the chart's tests (helm test).

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-logr/logr"
)

// The results that --ask can expect.
const (
	askToken   = "token"
	askRefusal = "refusal"
)

// askOptions select a request in place of the controller.
type askOptions struct{ want, resource, service string }

func (o *askOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.want, "ask", "", "ask the metadata service for a token as a pod does, and exit with 0 if the answer is a `token`, or a refusal by podid: token or refusal")
	flags.StringVar(&o.resource, "ask-resource", "https://management.azure.com/", "`resource` of the token")
	flags.StringVar(&o.service, "ask-service", "http://169.254.169.254", "`URL` of the metadata service")
}

func (o *askOptions) validate() error {
	if o.want != "" && o.want != askToken && o.want != askRefusal {
		return fmt.Errorf("--ask=%s: use %s or %s", o.want, askToken, askRefusal)
	}
	return nil
}

// askTimeout is longer than an agent holds a request for an identity that is being assigned.
const askTimeout = 150 * time.Second

// answer is what the metadata service sends. A token is never logged.
type answer struct {
	AccessToken string `json:"access_token"`
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

// ask sends the request and returns nil if the answer is the expected one.
func ask(ctx context.Context, o askOptions) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	query := url.Values{"api-version": {"2018-02-01"}, "resource": {o.resource}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.service+"/metadata/identity/oauth2/token?"+query.Encode(), nil)
	if err != nil {
		return fmt.Errorf("--ask-service: %w", err)
	}
	req.Header.Set("Metadata", "true")
	client := &http.Client{Transport: &http.Transport{}} // no proxy
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the metadata service: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the metadata service's answer: %w", err)
	}
	var got answer
	_ = json.Unmarshal(body, &got) // what is no JSON is neither of the two
	return judge(ctx, o.want, resp.StatusCode, got)
}

// judge compares an answer with the expected one. A refusal counts only with one of podid's codes:
// the metadata service itself refuses, too.
func judge(ctx context.Context, want string, status int, got answer) error {
	log := logr.FromContextOrDiscard(ctx)
	token := status == http.StatusOK && got.AccessToken != ""
	refusal := status >= 400 && status < 500 && strings.Contains(got.Description, "PID-")
	switch {
	case want == askToken && token:
		log.Info("got a token")
	case want == askRefusal && refusal:
		log.Info("was refused", "status", status, "description", got.Description)
	case token:
		return errors.New("got a token, and should have been refused")
	default:
		return fmt.Errorf("expected a %s, and got status %d: %s: %s", want, status, got.Error, got.Description)
	}
	return nil
}
