// Leaves the secret that the agent connects with in the volume that it shares with the agent, so that
// nobody has to carry it there. The controller runs this when it has started:
// https://www.jenkins.io/doc/book/managing/groovy-hook-scripts/
import jenkins.model.Jenkins

new File('/agent/secret').text = Jenkins.get().getComputer('slipway').jnlpMac
