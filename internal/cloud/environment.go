// Finding a cloud by its name, and the file with the endpoints of a private one.

package cloud

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"github.com/podid-io/podid/internal/ascii"
)

// EnvironmentFilepath is the environment variable that names the file with the endpoints of a
// Stack.
const EnvironmentFilepath = "AZURE_ENVIRONMENT_FILEPATH"

// maxEnvironment bounds that file.
const maxEnvironment = 1 << 20

// Find returns the cloud of that name, which may have surrounding blanks. It reads environmentFile,
// the value of EnvironmentFilepath, only for Stack. It does not check the endpoints in the file:
// use Validate for those that are needed. With an error, the cloud has at most its name.
func Find(name, environmentFile string) (Cloud, error) {
	name = strings.TrimSpace(name)
	if c, ok := Named(name); ok {
		return c, nil
	}
	if !ascii.EqualFold(name, Stack) {
		return Cloud{}, fmt.Errorf("cloud %q is unknown: use %s, or %s with %s",
			shorten(name), strings.Join(Names(), ", "), Stack, EnvironmentFilepath)
	}
	if environmentFile == "" {
		return Cloud{Name: Stack}, fmt.Errorf("cloud %s needs its endpoints: set %s to the path of the JSON file that has them",
			Stack, EnvironmentFilepath)
	}
	c, err := readEnvironment(environmentFile)
	if err != nil {
		return Cloud{Name: Stack}, fmt.Errorf("read cloud environment %s (named by %s): %w", environmentFile, EnvironmentFilepath, err)
	}
	return c, nil
}

// readEnvironment reads the relevant part of a file in the format of go-autorest's
// azure.Environment.
func readEnvironment(path string) (Cloud, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Cloud{}, fmt.Errorf("%w: mount the file with the endpoints of the cloud there, or correct the path", fs.ErrNotExist)
	}
	if err != nil {
		return Cloud{}, err
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxEnvironment))
	if err != nil {
		return Cloud{}, err
	}
	var environment struct {
		ResourceManagerEndpoint   string `json:"resourceManagerEndpoint"`
		ActiveDirectoryEndpoint   string `json:"activeDirectoryEndpoint"`
		TokenAudience             string `json:"tokenAudience"`
		ServiceManagementEndpoint string `json:"serviceManagementEndpoint"`
	}
	if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), &environment); err != nil {
		return Cloud{}, fmt.Errorf("malformed JSON: %w", err)
	}
	// go-autorest's clients use the service management endpoint, newer ones the token audience.
	audience := environment.ResourceManagerEndpoint
	for _, candidate := range []string{environment.TokenAudience, environment.ServiceManagementEndpoint} {
		if candidate != "" && !ascii.EqualFold(candidate, "N/A") { // go-autorest writes N/A for "none"
			audience = candidate
			break
		}
	}
	return Cloud{
		Name:            Stack,
		Authority:       trimADFS(environment.ActiveDirectoryEndpoint),
		ResourceManager: strings.TrimRight(environment.ResourceManagerEndpoint, "/"),
		Audience:        audience,
	}, nil
}

// trimADFS returns the authority without the /adfs at the end of an endpoint of AD FS: it is the
// tenant, which the SDK adds itself.
func trimADFS(endpoint string) string {
	if endpoint == "" {
		return ""
	}
	endpoint = strings.TrimRight(endpoint, "/")
	const adfs = "/adfs"
	if host := len(endpoint) - len(adfs); host > 0 && ascii.EqualFold(endpoint[host:], adfs) {
		endpoint = endpoint[:host]
	}
	return endpoint + "/"
}

// Validate checks that the endpoints of a cloud are https URLs with a host, because secrets and
// tokens are sent there. Its error lists all invalid ones.
func (c Cloud) Validate() error {
	return errors.Join(
		validate("resourceManagerEndpoint", c.ResourceManager),
		validate("activeDirectoryEndpoint", c.Authority),
	)
}

func validate(field, value string) error {
	if value == "" {
		return fmt.Errorf("%s is missing", field)
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" {
		return fmt.Errorf("%s must be an https URL such as https://management.example.com/", field)
	}
	return nil
}

// shorten bounds the length of an invalid value in an error.
func shorten(s string) string {
	const limit = 64
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
