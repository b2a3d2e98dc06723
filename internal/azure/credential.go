// How podid itself signs in to Azure, following the cloud config when it changes.

package azure

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/observe"
)

// CredentialOptions are the options of a Credential besides its first Config.
type CredentialOptions struct {
	// Path and Getenv are the arguments of Load; a nil Getenv means os.Getenv. With an empty Path
	// nothing is read again, since the environment does not change.
	Path   string
	Getenv func(string) string
	// Log gets one message for every change of the file, with the reason if the new one is not
	// used.
	Log logr.Logger
	// Transport carries the requests to Entra ID or the metadata service. With nil, requests to
	// Entra ID use the SDK's own, which follows HTTPS_PROXY, and requests to the metadata service
	// use no proxy.
	Transport policy.Transporter
	// UserAgent follows the SDK's own in requests to Entra ID and the metadata service.
	UserAgent string
}

// Credential is podid's own credential. Before every token it checks whether the file has changed,
// for example because a service principal's secret was rotated, and signs in again if so. The check
// is one stat call, and rare because the SDK caches tokens. A new file that is invalid or names
// another cloud is reported once, and the last valid one stays in use.
type Credential struct {
	options CredentialOptions

	mu     sync.Mutex
	config Config
	seen   stamp
	inner  azcore.TokenCredential
}

// Credential is what the Azure SDK's clients take.
var _ azcore.TokenCredential = (*Credential)(nil)

// NewCredential returns the credential for the config. It does not call Azure.
func NewCredential(config Config, options CredentialOptions) (*Credential, error) {
	if options.Getenv == nil {
		options.Getenv = os.Getenv
	}
	inner, err := signIn(config, options)
	if err != nil {
		return nil, err
	}
	// The file may have changed since Load, so its stamp stays empty until the first token.
	return &Credential{options: options, config: config, inner: inner}, nil
}

// GetToken implements azcore.TokenCredential.
func (c *Credential) GetToken(ctx context.Context, request policy.TokenRequestOptions) (azcore.AccessToken, error) {
	inner, config := c.current()
	token, err := inner.GetToken(ctx, request)
	if err != nil {
		return azcore.AccessToken{}, config.explain(ctx, err)
	}
	return token, nil
}

// current returns the credential of the newest valid config.
func (c *Credential) current() (azcore.TokenCredential, Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.options.Path == "" {
		return c.inner, c.config
	}
	if now := stampOf(c.options.Path); now != c.seen {
		c.seen = now
		if err := c.reload(); err != nil {
			c.options.Log.Error(err, "the cloud config changed and cannot be used; signing in with the last good one")
		}
	}
	return c.inner, c.config
}

// reload reads the file again and replaces the credential if the config differs. An equal one keeps
// its tokens.
func (c *Credential) reload() error {
	config, err := Load(c.options.Path, c.options.Getenv)
	if err != nil {
		return err
	}
	if config.equal(c.config) {
		return nil
	}
	if config.Cloud != c.config.Cloud {
		return fmt.Errorf("read cloud config %s: the cloud changed from %s to %s, or its endpoints did: restart to move there",
			c.options.Path, c.config.Cloud.Name, config.Cloud.Name)
	}
	inner, err := signIn(config, c.options)
	if err != nil {
		return err
	}
	c.config, c.inner = config, inner
	c.options.Log.Info("the cloud config changed; signing in anew", "path", c.options.Path,
		"clientID", observe.ShortID(config.ClientID), "managedIdentity", config.ManagedIdentity)
	return nil
}

// equal compares the fields that the credential depends on.
func (c Config) equal(other Config) bool {
	return c.Cloud == other.Cloud && c.TenantID == other.TenantID && c.ClientID == other.ClientID &&
		c.ClientSecret.Equal(other.ClientSecret) && c.ManagedIdentity == other.ManagedIdentity &&
		c.UserAssignedIdentityID == other.UserAssignedIdentityID
}

// stamp identifies a state of a file. An update of a mounted secret swaps a symbolic link, which
// changes the inode; an editor may keep the inode and the size.
type stamp struct {
	modified time.Time
	size     int64
	inode    uint64
	missing  bool
}

// stampOf returns the stamp of the file that path resolves to.
func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{missing: true}
	}
	return stamp{modified: info.ModTime(), size: info.Size(), inode: inode(info)}
}
