// Checks whether Entra ID can trust the tokens of a cluster.

package federation

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/podid-io/podid/internal/ascii"
)

// DiscoveryPath is the path of the discovery document at the API server and the issuer.
const DiscoveryPath = "/.well-known/openid-configuration"

// Discovery is the relevant part of that document.
type Discovery struct {
	Issuer     string   `json:"issuer"`
	JWKSURI    string   `json:"jwks_uri"`
	Algorithms []string `json:"id_token_signing_alg_values_supported"`
}

// maxIssuer is the maximum length of a federated credential's issuer, in characters.
const maxIssuer = 600

// remedy describes how a cluster gets an issuer that Entra ID can reach.
const remedy = "on AKS: az aks update --resource-group GROUP --name CLUSTER --enable-oidc-issuer; elsewhere run kube-apiserver with " +
	"--service-account-issuer=https://HOST and --service-account-jwks-uri=https://HOST/openid/v1/jwks, and publish its answers to " +
	DiscoveryPath + " and /openid/v1/jwks there (docs/federation.md); or name the public one with --issuer"

// CheckIssuer checks that Entra ID can fetch the keys of an issuer, which must be a public https
// URL. Its error says what to do.
func CheckIssuer(issuer string) error {
	if issuer == "" {
		return errors.New("the cluster does not say who issues its ServiceAccount tokens: " + remedy)
	}
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.TrimSpace(issuer) != issuer:
		return fmt.Errorf("the issuer %q is no https URL, so Entra ID cannot fetch its keys: %s", issuer, remedy)
	case len(issuer) > maxIssuer:
		return fmt.Errorf("the issuer is %d characters long, Azure takes %d: %s", len(issuer), maxIssuer, remedy)
	case !public(u.Hostname()):
		return fmt.Errorf("the issuer %s is not public, so Entra ID cannot fetch its keys: %s", issuer, remedy)
	}
	return nil
}

// public reports whether a host may be on the internet.
func public(host string) bool {
	if address, err := netip.ParseAddr(host); err == nil {
		return address.IsGlobalUnicast() && !address.IsPrivate()
	}
	host = ascii.ToLower(strings.TrimSuffix(host, "."))
	if !strings.Contains(host, ".") {
		return false // kubernetes, localhost
	}
	for _, suffix := range []string{".svc", ".local", ".localhost", ".internal", ".svc.cluster"} {
		if strings.HasSuffix(host, suffix) {
			return false
		}
	}
	return true
}

// CheckKeys checks that Entra ID can verify the signatures, for which it accepts only RS256.
// https://learn.microsoft.com/entra/workload-id/workload-identity-federation-considerations
func CheckKeys(d Discovery) error {
	if len(d.Algorithms) == 0 || slices.Contains(d.Algorithms, "RS256") {
		return nil
	}
	return fmt.Errorf("the cluster signs ServiceAccount tokens with %s, and Entra ID takes RS256 only: give kube-apiserver an RSA key with --service-account-signing-key-file",
		strings.Join(d.Algorithms, ", "))
}
