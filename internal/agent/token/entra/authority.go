// Token endpoints.

package entra

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token/source"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/cloud"
)

// Authority is the address of Entra ID or ADFS: an https URL without a slash at its end, such as
// https://login.microsoftonline.com.
type Authority struct{ base string }

// adfs is the tenant that stands for ADFS.
const adfs = "adfs"

// ParseAuthority reads an authority's URL. It must be https, since credentials are sent there. A
// trailing /adfs, as in files for Azure Stack, is the tenant.
func ParseAuthority(text string) (Authority, error) {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.Scheme != "https" || u.Hostname() == "" ||
		u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return Authority{}, errors.New("must be an https URL such as https://login.microsoftonline.com/")
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	if last := len(path) - len("/"+adfs); last >= 0 && ascii.EqualFold(path[last:], "/"+adfs) {
		path = strings.TrimRight(path[:last], "/")
	}
	return Authority{"https://" + ascii.ToLower(u.Host) + path}, nil
}

// String returns the URL.
func (a Authority) String() string { return a.base }

// endpoint is a token endpoint.
type endpoint struct {
	url    string
	host   string
	tenant string
	adfs   bool
}

// endpoint returns the one for a tenant of an identity, at the identity's adEndpoint or else at a.
func (a Authority) endpoint(id *v1.AzureIdentity, tenant string) (endpoint, error) {
	base := a
	if id.Spec.ADEndpoint != "" {
		var err error
		if base, err = ParseAuthority(id.Spec.ADEndpoint); err != nil {
			return endpoint{}, fmt.Errorf("its adEndpoint %w", err)
		}
		if err := a.trusts(base, id); err != nil {
			return endpoint{}, err
		}
	}
	odd := func(r rune) bool { return !inTenant(r) }
	if strings.Trim(tenant, ".") == "" || strings.ContainsFunc(tenant, odd) {
		return endpoint{}, fmt.Errorf("tenant %q is neither a GUID nor a domain: az account show --query tenantId",
			source.Clip(tenant, 64))
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(base.base, "https://"), "/")
	if ascii.EqualFold(tenant, adfs) {
		return endpoint{url: base.base + "/adfs/oauth2/token", host: host, tenant: adfs, adfs: true}, nil
	}
	return endpoint{url: base.base + "/" + tenant + "/oauth2/v2.0/token", host: host, tenant: tenant}, nil
}

func inTenant(r rune) bool {
	return r == '-' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

// trusts returns an error if an identity's proof must not go to an authority other than the node's.
// The author of an AzureIdentity chooses its adEndpoint. So the following is allowed anywhere:
//   - a Secret of the author's own namespace;
//   - the token of the identity's own broker, which proves only that it is this identity. A shared
//     identity has the adEndpoint of its owner, which the rules enforce.
//
// A Secret of another namespace, and a broker token with an audience of the author's choice, go to
// Microsoft or to the operator's own authority only.
func (a Authority) trusts(other Authority, id *v1.AzureIdentity) error {
	if other == a || slices.Contains(cloud.AuthorityHosts(), strings.TrimPrefix(other.base, "https://")) {
		return nil
	}
	if id.Spec.Type == v1.Federated {
		audience := id.Spec.FederatedAudience
		if audience == "" || slices.Contains(cloud.ExchangeAudiences(), audience) {
			return nil
		}
		return fmt.Errorf("its adEndpoint is %s, and its federatedAudience none of Entra ID's: "+
			"an operator can run nmi with --authority-host=%s", other, other)
	}
	secret := id.Spec.ClientPassword.Namespace
	if secret == "" || secret == id.Namespace {
		return nil
	}
	return fmt.Errorf("its adEndpoint is %s, and its Secret is in another namespace (%s): "+
		"move the Secret to namespace %s, or an operator can run nmi with --authority-host=%s",
		other, secret, id.Namespace, other)
}
